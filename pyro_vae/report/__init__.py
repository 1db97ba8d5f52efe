"""A comparison as tables, figures and one page of HTML."""
