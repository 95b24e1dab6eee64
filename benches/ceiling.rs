//! What one core can at most do here with the kernel interfaces of the broker.
//!
//! Runs the loop of `bare/` alone: synced produce of 64 KiB frames and consume of
//! 1 MiB answers, server on one CPU, clients on another. `cargo bench --bench
//! broker` runs it beside the broker.
//!
//! `cargo bench --bench ceiling -- [--dir DIR] [--seconds N] [--rounds N]
//! [--connections N] [--in-flight N]`

#![allow(clippy::disallowed_methods)] // Measures real time.
#![allow(unsafe_code)] // Asks the kernel or the allocator directly.

mod arguments;
mod bare;
mod load;
mod requests;

use std::io;

use arguments::Arguments;
use load::{Figures, Server, median};

fn main() -> io::Result<()> {
    let arguments = Arguments::read();
    if let Some(serve) = &arguments.serve {
        return serve.run();
    }
    println!("{}\n", load::machine(&arguments.dir)?);
    println!("| | MB/s | server CPU s/GB | server busy |");
    println!("|---|---|---|---|");
    let batch = requests::batch(100, 64 << 10);
    for name in ["produce", "consume"] {
        let mut rounds = vec![];
        for _ in 0..arguments.rounds {
            let server = arguments.start_bare(&batch)?;
            rounds.push(bare_figures(&arguments, &server, &batch, name == "produce")?);
            drop(server);
            arguments.clean();
        }
        let of = |what: fn(&Figures) -> f64| median(rounds.iter().map(what).collect());
        println!(
            "| {name} | {:.0} | {:.3} | {:.0} % |",
            of(Figures::megabytes_per_second),
            of(Figures::cpu_seconds_per_gigabyte),
            100.0 * of(Figures::busy),
        );
    }
    Ok(())
}

/// Measures the bare loop.
fn bare_figures(
    arguments: &Arguments,
    server: &Server,
    batch: &requests::Batch,
    produce: bool,
) -> io::Result<Figures> {
    arguments.run(server, produce, |_| arguments.bare_client(batch, produce))
}
