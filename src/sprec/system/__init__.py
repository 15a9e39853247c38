"""What the machine and its operating system ask for: whole files, processes, signals, memory, progress, errors."""
