"""Which of a run's answers people label, and the sheets on which they do."""
