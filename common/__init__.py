"""What every folder uses: errors, files, locks, interrupts, the journal, the manifest, progress."""
