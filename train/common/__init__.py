"""What every package uses: errors, the look of commands, files, progress, statistics."""
