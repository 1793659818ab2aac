"""Steps in a muddle, told in the right order."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.invented import capitalised, cells, rounds
from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled

# What is to be done | four steps.
TASKS = (
    "make a cup of tea|boil some water|pour it over the tea leaves|let it brew for four minutes|take out the leaves",
    "plant a tree|dig a deep hole|set the tree into it|fill the hole with earth|water the ground well",
    "send a parcel|put it into a box|close the box with tape|write the address on it|take it to the post office",
    "wash your hands|wet your hands|rub them with soap|rinse off the foam|dry them with a towel",
    "fry an egg|heat some oil in a pan|crack the egg into it|wait until the white is firm|add a little salt",
    "change a light bulb|switch off the lamp|unscrew the old bulb|screw in the new one|switch the lamp on again",
    "borrow a book|look up the book|find it on the shelf|take it to the desk|show your library card",
    "paint a wall|cover the floor|stir the paint|roll the paint onto the wall|let it dry overnight",
    "wash a dog|brush the dog|wet its fur with warm water|rub in the shampoo|rinse it until the water is clear",
    "bake bread|mix flour, water and yeast|let the dough rise|shape a loaf|bake it in a hot oven",
    "buy a train ticket|choose where you want to go|pick a train|pay with your card|print the ticket",
    "repair a flat tyre|take off the wheel|find the hole in the tube|glue a patch on it|pump up the tyre",
    "brush your teeth|put toothpaste on the brush|brush for two minutes|spit out the foam|rinse your mouth",
    "cook rice|rinse the rice|put it into a pot with water|bring it to the boil|let it simmer with the lid on",
    "light a campfire|find a safe place|pile up some dry twigs|light them with a match|add bigger pieces of wood",
    "write a letter|take a sheet of paper|write down what you want to say|fold the sheet|put it into an envelope",
    "set up a tent|spread it out on flat ground|put the poles together|raise the tent|fix it with pegs",
    "do the laundry|sort the clothes by colour|put them into the machine|add the powder|start the programme",
    "iron a shirt|heat the iron|lay the shirt on the board|iron out the creases|put the shirt on a hanger",
    "make a salad|wash the vegetables|cut them into pieces|put them into a bowl|pour the dressing over them",
    "hang a picture|measure the wall|mark the right place|hammer in a nail|put the picture on it",
    "take the bus|go to the stop|wait for the bus|show the driver your ticket|get off where you want",
    "make orange juice|cut the oranges in half|press them|pour the juice into a glass|drink it fresh",
    "grow sunflowers|loosen the soil|put the seeds into it|water them every day|tie the tall stems to a stick",
    "clean a window|wipe off the dust|wash the glass with soapy water|wipe off the water|dry the edges with a cloth",
    "charge a phone|find the cable|plug it into the phone|connect it to a socket|wait until the battery is full",
    "make pancakes|mix eggs, milk and flour|melt butter in a pan|pour in a little batter|turn the pancake over",
    "wrap a present|cut the paper to size|lay the present on it|fold the paper around it|tie a ribbon",
    "sew on a button|thread the needle|hold the button in its place|stitch through its holes|knot the thread",
    "join a video call|open the link|type in your name|switch on the camera|say hello to everybody",
    "make coffee|grind the beans|put the powder into the filter|pour hot water over it|fill the cup",
    "clean a fish tank|move the fish to a bowl|drain the dirty water|wipe the glass|fill in fresh water",
    "mow the lawn|pick up sticks and stones|start the mower|cut the grass in rows|empty the bag",
    "pack for a trip|write a list|lay out your clothes|fold them|put them into the suitcase",
    "make soup|chop the onions|fry them in the pot|pour in the broth|let everything simmer for half an hour",
    "cross a road|stop at the kerb|look left and right|wait until the road is clear|walk straight across",
    "take a photo|clean the lens|hold the camera still|focus on your friend|press the button",
    "make a snowman|roll a big snowball|put a smaller one on top|add a third one for the head|use a carrot as a nose",
    "install a program|download the file|open it|follow the instructions|restart the computer",
    "vote in an election|bring your identity card|collect the ballot paper|make your cross in the booth|"
    "drop the paper into the box",
    "carve a pumpkin|cut off the top|scoop out the seeds|cut a face into the side|put a candle inside",
    "polish shoes|brush off the dirt|rub in the polish|let it soak in|shine them with a soft cloth",
)


@kind(
    "Put the steps into the right order and write them as a short text: how to {task}.\n{steps}",
    "How do I {task}? These steps are mixed up.\n{steps}",
    "right order? (how to {task})\n{steps}",
    "The steps to {task} got into a muddle. Tell them in order.\n{steps}",
    "Sort these steps and explain how to {task}.\n{steps}",
    "Please arrange this so that it makes sense. I want to {task}.\n{steps}",
    "My notes on how to {task} are in the wrong order. Write them properly.\n{steps}",
    "Explain to a child how to {task}. Use these steps in a sensible order.\n{steps}",
    "I want to {task}. What comes first, what comes last?\n{steps}",
    "Turn the jumbled list into instructions to {task}.\n{steps}",
    "how to {task}? order the list and write it out\n{steps}",
    "Make a clear set of instructions out of this. It is about how to {task}.\n{steps}",
    "Which step comes when, if you want to {task}? Answer in sentences.\n{steps}",
    "Bring the steps into a logical order, with first, then and finally. The aim is to {task}.\n{steps}",
    "Write in the right order how to {task}.\n{steps}",
    checkable=False,
)
def steps_in_order(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """How to do something, from its steps in any order."""
    forms = (
        "First, {}. Then {}. After that, {}. Finally, {}.",
        "First, {}. Next, {}. Then {}. Finally, {}.",
        "First, {} and then {}. After that, {}. Finally, {}.",
    )
    for task, *steps in rounds(generator, [cells(row) for row in TASKS]):
        mixed = shuffled(generator, steps)
        if mixed == steps:
            continue
        bullets = ["- " + "\n- ".join(mixed), "\n".join(map(capitalised, mixed)), "; ".join(mixed), " / ".join(mixed)]
        given = {"task": task, "steps": (pick(generator, bullets), bullets[0], bullets[2])}
        yield Item(f"{task}: {'; '.join(mixed)}", pick(generator, forms).format(*steps), given, group=f"task: {task}")
