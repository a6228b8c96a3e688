"""What this machine is and does: devices, memory, speed, processes, signals."""
