"""One file per question about speed, and what those files share. Nothing of Motet imports these."""
