"""What runs in which order: the Prefect flow, the recipe, the command line. Never touches a row."""
