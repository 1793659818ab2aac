"""What models that give labels share: the classifier of mails, and the guard over requests."""
