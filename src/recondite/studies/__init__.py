"""Studies: many runs, put together into tables, figures and a page."""
