"""What somebody brings (a tutorial, a script, a notebook, another tool's config) read into a run's config."""
