"""Other places that want a run's figures: one file for each, imported when somebody asks for it."""
