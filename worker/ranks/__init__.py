"""Workers of several processes: who holds and owns which block, and what the ranks of one worker agree on."""
