"""What a run leaves behind: records, manifest, items, and the one join of answers with their judgments."""
