"""The command `threestage`."""
