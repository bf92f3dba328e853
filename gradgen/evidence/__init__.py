"""What is known of a picture, and how probable that is, given the picture."""
