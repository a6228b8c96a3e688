"""The command line itself: what it accepts, how its help reads, how a fault is told."""
