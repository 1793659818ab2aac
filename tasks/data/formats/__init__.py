"""Read data from files of many formats; each format is one small function.

tasks/data/sniff.py tells the form of a file from its suffix, and tables.py reads rows. documents.py, mails.py and
conversations.py turn them into rows of the corpus, emails and instructions. To add a form, write a function there, add
a line to the table at the end of that file, and a case to tests/tasks/data/formats/.
"""
