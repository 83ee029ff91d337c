"""What runs the stages of an experiment, keeps and resumes them; it knows no science."""
