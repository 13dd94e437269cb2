"""Lab hosts: booted systemd machines with addresses of their own, inside this one.

    lab ─┬─ rootfs      one root file system a suite, built once, copied for each host
         ├─ network     a bridge, forwarding, and one masquerade rule
         ├─ machine     what makes a copy a host of its own; what is left of one
         │   ├─ pip_settings   the controller's package sources, handed in
         │   └─ ssh            keys, known hosts, and the way in
         └─ supervisor  starts and kills a machine, as a unit or detached
             └─ cgroups        limits, where no systemd gives them

`definition` holds what is asked for, `system` the few things asked of the operating system.
Nothing is remembered that can be observed: a host runs when its systemd-nspawn runs, not when a
file says so. That is what lets the next run cope with whatever a killed one has left.
"""
