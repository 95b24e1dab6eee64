//! The runtime against the real kernel: loopback sockets and a temporary directory.

mod disk;
mod net;
mod threads;

use std::process::{Command, Output};

/// Runs one ignored test, named as below `runtime::tests`, and waits for its end.
fn in_a_process_of_its_own(test: &str) -> Output {
    let tests = std::env::current_exe().expect("a running test has a file");
    let name = format!("runtime::tests::{test}");
    let arguments = [&name, "--exact", "--ignored", "--nocapture"];
    Command::new(tests).args(arguments).output().expect("the test can be started")
}
