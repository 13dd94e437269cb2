"""The demo's driver: runs the playbooks, shows their stages, and asks the API that they deployed.

__main__ ── playbook ── follower ── timeline     what happens, and how long each stage takes
    │           └──────────┴─────── display      how it is shown: live on a terminal, lines elsewhere
    ├────── site                                 where the deployed API is, from the inventory
    ├────── question                             its key and its answers
    └────── report                               the last lines: answers and what to try, or what failed
"""
