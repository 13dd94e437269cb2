"""What nvidia-smi and the kernel tell of NVIDIA's GPUs, for the module citadel_gpu_facts."""
