"""What leaves the machine: checks for leaks, the card, the manifest, and the way to the Hub."""
