"""What every room uses: errors, types, files, devices, progress."""
