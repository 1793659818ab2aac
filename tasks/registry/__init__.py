"""MLflow: runs, and the registry of models with their evidence."""
