"""One file for each ``warmeng`` command, a folder for ``bench``. No logic lives here."""
