"""What soft prompts are measured against: methods that change weights or activations, one file each."""
