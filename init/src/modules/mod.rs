//! Kernel modules: which, in what order, for which device.
