//! `grid up` at a terminal: logs, Ctrl-C, and the end that another terminal asks for.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use crate::support::{Grid, eventually, processes, signal};

/// `grid up` in the foreground, once it says that it is up; its stderr goes on being read.
fn foreground(grid: &Grid) -> (Child, std::thread::JoinHandle<String>) {
    let mut up = grid
        .command(&[
            "up",
            "--nodes",
            "1",
            "--http",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(up.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("Ctrl-C takes the grid down") {
        let read = stderr.read_line(&mut said).unwrap();
        assert_ne!(read, 0, "`grid up` ended: {said}");
    }
    let rest = std::thread::spawn(move || {
        let mut said = said;
        while stderr.read_line(&mut said).unwrap_or(0) > 0 {}
        said
    });
    (up, rest)
}

#[test]
fn ctrl_c_takes_the_grid_down_and_keeps_the_data() {
    let grid = Grid::new();
    let (mut up, said) = foreground(&grid);
    assert_eq!(grid.node("node-1")["state"], "running");
    signal(up.id(), "-INT");
    assert!(up.wait().unwrap().success());
    let said = said.join().unwrap();
    assert!(said.contains("grid   | stopping the nodes"), "{said}");
    assert!(said.contains("master | "), "{said}");
    assert!(said.contains("agent  | "), "{said}");
    assert_eq!(processes(&grid.state()), []);
    assert!(grid.state().join("data/node-1").exists());
}

#[test]
fn another_terminal_takes_it_down() {
    let grid = Grid::new();
    let (mut up, said) = foreground(&grid);
    grid.run(&["down"]);
    eventually("`grid up` to end", || up.try_wait().unwrap());
    said.join().unwrap();
    assert_eq!(processes(&grid.state()), []);
}
