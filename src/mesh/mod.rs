//! Messages between the cores of one broker.

/// A message from one core to another.
#[derive(Debug)]
pub enum Mail {}
