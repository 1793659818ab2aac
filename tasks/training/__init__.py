"""Code that trainings share: their set-up, their run, its progress and report, and Ray."""
