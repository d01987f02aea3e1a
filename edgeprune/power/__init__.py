"""What a device draws and in which state it is: sensors of a Jetson, NVML of a GPU; nothing on other machines.

Standard library only. It knows no bundle and no benchmark.
"""
