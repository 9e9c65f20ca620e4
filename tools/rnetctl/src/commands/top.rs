// SPDX-License-Identifier: GPL-2.0
//! `rnetctl top`: what queues do, live.

use std::io::Write;

use crate::cli::TopArgs;
use crate::exit::Error;
use crate::host::Host;
use crate::output;
use crate::top::model::Model;
use crate::top::{columns, terminal};

/// Shows the queues until the user quits, or writes one table.
///
/// # Errors
///
/// Those of the terminal, of looking at the devices and of `out`.
pub fn run(host: &Host, args: &TopArgs, out: &mut dyn Write) -> Result<(), Error> {
    let model = Model::new(rustix::param::clock_ticks_per_second());
    if !args.once && terminal::is_there() {
        return terminal::run(host, model, args.interval);
    }
    if !args.once {
        output::complain("there is no terminal, so this is one table, as of --once")?;
    }
    let model = terminal::once(host, model, args.interval)?;
    columns::table(&model).write(out)?;
    out.flush()?;
    for note in &model.notes {
        output::complain(note)?;
    }
    Ok(())
}
