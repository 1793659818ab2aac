"""A mail as the text that a person reads: the classifier learns from it, and a served classifier reads it.

MLflow keeps this folder with every version of a model that was trained on mail: it may import nothing else of ours.
A row is cleaned by `clean_row`, a raw message by `parse_message`, a subject and a body by `clean_mail`.
"""

from tasks.data.mail.message import INPUTS, REQUIREMENTS, RowError, clean_mail, clean_row, parse_message

__all__ = ["INPUTS", "REQUIREMENTS", "RowError", "clean_mail", "clean_row", "parse_message"]
