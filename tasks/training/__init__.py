"""What trainings share: what is trained, one run of it, its progress and report, and Ray."""
