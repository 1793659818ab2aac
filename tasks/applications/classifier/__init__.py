"""A classifier of emails: spam or ham."""
