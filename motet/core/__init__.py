"""Plain data that every part agrees on: no torch, no I/O."""
