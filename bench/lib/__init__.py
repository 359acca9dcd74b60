"""Compares lb-proxy with other load balancers. bench/compare is the way in.

    settings    what was asked for
    machine     cores, ports, descriptors, what this machine is
    install     where the programs come from
    process     started programs: CPU, memory, their end
    peers/      a load balancer each: its configuration, and how it is started
    backend     what they balance over
    load        what is sent through them: ../wrk.lua, ../websocket.rs
    world       what all rows share
    rows/       what is compared: the rows of the table
    measure     rounds, in turns
    syscalls    system calls, counted on demand
    results     what was measured, kept
    report      tables
    chart       bar charts
    page        docs/benchmarks.md
"""
