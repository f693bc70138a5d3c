"""What each idea is worth on this machine: one part for each question, one command for all."""
