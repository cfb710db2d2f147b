"""What a job would need and do, worked out without starting anything: `pushpull plan`."""
