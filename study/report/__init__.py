"""What a run shows: tables, figures, the report page and exports."""
