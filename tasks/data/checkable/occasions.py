"""What mails are about: favours, events, meetings, what is asked for."""

from tasks.data.checkable.invented import cells

# What for | what came of it.
FAVOURS = (
    "helping me move|everything was in the new flat by noon",
    "lending me your ladder|the gutter is clean again",
    "the lovely flowers|the whole room smells of spring",
    "looking after our dog|we had a holiday without worries",
    "the lift to the airport|I caught my plane with time to spare",
    "proofreading my thesis|I handed it in without a single typo",
    "the birthday cake|there was not one crumb left",
    "fixing my bicycle|it runs like new",
    "the advice about the job interview|I got the job",
    "watering my tomatoes|I picked the first ripe ones today",
    "babysitting on Saturday|we saw the film we had been waiting for",
    "the book about the stars|I finished it in two evenings",
    "showing me around the city|I already feel at home here",
    "explaining the new software|I can now do the reports on my own",
    "bringing back my lost wallet|nothing was missing",
    "the homemade jam|the children ask for it every morning",
    "covering my shift|I could be at my son's school play",
    "translating the letter|I finally understand what the office wants",
    "the concert tickets|we had the best seats in the house",
    "painting the fence with me|it looks wonderful",
    "the donation to the animal shelter|we could buy food for a whole month",
    "the warm welcome in the team|my first week flew by",
    "recommending the dentist|my toothache is gone",
    "lending us the tent|we stayed dry in the rain",
    "helping with the tax form|I get some money back this year",
    "the recipe for the fish curry|my guests loved it",
    "repairing the heating so quickly|the flat is warm again",
    "the help at the school fair|we raised more than ever before",
    "the photos of the wedding|I have put one on my desk",
    "teaching me to knit|my first scarf is almost ready",
    "picking up the parcel for me|the gift arrived in time",
    "the invitation to dinner|I have not laughed so much in months",
    "visiting me in hospital|I felt much better afterwards",
    "the piano lessons|I can play a whole song by heart",
    "finding my cat|she is asleep on the sofa now",
    "helping me practise my English|I passed the exam",
    "the gardening gloves|my hands have no scratches any more",
    "shovelling the snow|I got to work on time",
    "lending me your drill|the shelves are up at last",
    "the quick delivery|the chairs were here before the party",
    "the patience during the driving lessons|I passed the test at the first try",
    "setting up my new computer|everything works perfectly",
)
HOURS = {
    "morning": ("9 am", "9:30 am", "10 am", "10:30 am", "11 am"),
    "noon": ("noon", "12:30 pm", "1 pm"),
    "afternoon": ("2 pm", "2:30 pm", "3 pm", "3:30 pm", "4 pm"),
    "evening": ("6 pm", "6:30 pm", "7 pm", "7:30 pm", "8 pm"),
}
# What | where | when, as in HOURS.
EVENTS = (
    "our housewarming party|in our new flat at 12 Mill Lane|evening",
    "a barbecue|in our garden|afternoon",
    "the opening of my shop|at 5 Market Street|morning",
    "my birthday dinner|at the Golden Lotus|evening",
    "a film night|at my place|evening",
    "our summer fair|on the school playground|afternoon",
    "the spring concert of our choir|in St Mary's Church|evening",
    "a picnic|by the lake in the park|afternoon",
    "a farewell lunch for Ruth|in the canteen|noon",
    "the first reading from my book|at the town library|evening",
    "a game evening|in the common room|evening",
    "our wedding|at Rosewood Farm|afternoon",
    "the opening of my exhibition|at the Gallery on the Hill|evening",
    "a workshop on bread baking|in the kitchen of the community centre|afternoon",
    "our street party|between numbers 10 and 30 of Oak Road|afternoon",
    "a tea party|in my grandmother's garden|afternoon",
    "the school play|in the main hall|evening",
    "a walk through the old town|in front of the museum|morning",
    "our annual meeting|in room 204|evening",
    "a tour of our farm|at Hillside Farm|morning",
    "my graduation party|on the roof of the student house|evening",
    "the football final of our youth team|at the stadium by the river|afternoon",
    "a cooking evening|at our house|evening",
    "a swap of plants and seeds|in the yard of the old mill|morning",
    "our open day|at the fire station|morning",
    "the dance show of our group|at the City Theatre|evening",
    "a talk about bees|in the village hall|evening",
    "a boat trip|at pier 3|afternoon",
    "a pancake breakfast|in our kitchen|morning",
    "the baby shower for Noor|at Café Jasmine|afternoon",
    "our team breakfast|in the meeting room on the second floor|morning",
    "a lantern walk|at the gate of the kindergarten|evening",
    "a chess tournament|in the reading room|afternoon",
    "a campfire|on the beach below the lighthouse|evening",
    "our clothes swap|in the cellar of the youth club|afternoon",
    "a repair café|in the bicycle workshop|afternoon",
    "the retirement party of our headmaster|in the staff room|afternoon",
    "an evening of songs|at the Blue Door|evening",
    "a pottery class|in my studio|afternoon",
    "our harvest dinner|in the barn|evening",
    "the first training of the rowing club|at the boathouse|morning",
    "a tour of the new office|at the main entrance|morning",
)
MEETINGS = (
    "our piano lesson|the budget meeting|the dentist appointment|the viewing of the flat|our talk|the guitar lesson|"
    "the job interview|our video call|the delivery of the sofa|the chess training|our tennis match|the staff meeting|"
    "our driving lesson|the guided tour|the choir rehearsal|our coffee morning|the project review|"
    "the repair of the boiler|"
    "the book club|the workshop on first aid|the garden meeting|the eye test|the kick-off meeting|the photo session|"
    "our walk|the visit to the vet|the signing of the contract|the yoga class|the haircut|the sales talk|"
    "the tour of the factory|our study group|the swimming lesson|the handover of the keys|the cooking class|"
    "the committee meeting|the test drive|the fitting at the tailor's|the language exchange|our planning session|"
    "the check of the fire alarms|the interview for the school newspaper"
)
# Of these, what others can begin without me.
GROUP_MEETINGS = (
    "the budget meeting|our video call|the chess training|the staff meeting|the guided tour|the choir rehearsal|"
    "our coffee morning|the project review|the book club|the workshop on first aid|the garden meeting|"
    "the kick-off meeting|the yoga class|the tour of the factory|our study group|the cooking class|"
    "the committee meeting|the language exchange|our planning session"
)
REASONS = (
    "I have to travel for work|we have visitors from abroad|my train connection was cancelled|I have a bad cold|"
    "I am moving house that day|my daughter is ill|that day is a public holiday|I have an exam on that day|"
    "my car has broken down|I am needed at another office|I have to see a doctor|my flight leaves that morning|"
    "I have to look after my grandson|we are short of staff|my back is hurting|it is my son's first day at school|"
    "I am expected in court|I have to pick up my mother from hospital|my passport has to be renewed that day|"
    "I booked two things at once"
)
# What is asked for | what it is needed for; what is more than one thing stands below.
DOCUMENTS = (
    "the signed contract|show it to the landlord",
    "the floor plan|order the carpets",
    "the new address|send the parcel",
    "the invoice for May|finish the accounts",
    "a copy of my certificate|apply for a course",
    "the programme of the conference|book my train",
    "the recipe for the lentil soup|cook it for my parents",
    "the guest list|plan the tables",
    "the bill for the dinner|split the costs",
    "the latest version of the report|prepare my talk",
    "the timetable|plan my week",
    "a proof of my insurance|rent a car",
    "the key code for the side door|let the painters in",
    "a letter of recommendation|apply for a scholarship",
    "the menu|choose the wine",
    "a list of the spare parts|repair the washing machine",
    "the seating plan|print the name cards",
    "the number of the bus line|find the house",
    "the translation of the leaflet|send it to the printer",
    "a receipt for the donation|fill in my tax form",
    "the map of the campsite|choose a good place",
    "the access code|log in from home",
)
SEVERAL_DOCUMENTS = (
    "the photos of the trip|make an album",
    "the minutes of the last meeting|write the summary",
    "the measurements of the window|sew the curtains",
    "the comments on my draft|hand in the final text",
    "the slides of the talk|share them with the class",
    "the test results|talk to my doctor",
    "the exam questions from last year|practise",
    "the sizes of the shirts|place the order",
    "the names of the new pupils|prepare the badges",
    "the sales figures for June|draw the chart",
    "the opening hours of the pool|plan the school trip",
    "the notes of the first lesson|catch up",
    "the papers for the car|sell it",
    "the plans of the kitchen|order the cupboards",
    "the rules of the competition|register my team",
    "the contact details of the electrician|have the lamp repaired",
    "the forms for the library card|register my children",
    "the prices for twenty chairs|compare the offers",
    "the dates of the next courses|plan my holiday",
    "the words of the song|practise at home",
)
REQUESTED = [(*cells(row), "it") for row in DOCUMENTS] + [(*cells(row), "them") for row in SEVERAL_DOCUMENTS]
