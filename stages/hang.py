"""What a process leaves behind that ends because the training hangs. Without torch, which
launch/requeue.py would wait for."""

HANG = 199  # its exit status
SENTENCE = "hang.txt"  # which process hangs, and in which section; in `processes/` of the run
