"""What the kernel bench measures: each kernel at this workload's shapes, beside what one would call instead."""
