"""Small models, the text and pictures they were trained on, and their shipped weights."""
