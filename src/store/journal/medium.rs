//! Reading what a disk can still read: around its bad places.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

use super::disk::Disk;

/// Bytes that are asked for at once where something cannot be read.
const WINDOW: u64 = 1024 * 1024;
/// Bytes of a place that cannot be read, at least: what systems read at once.
const BLOCK: u64 = 4096;
/// Blocks of a window that may fail before the rest of it is given up: a disk may take seconds to give up each.
const PATIENCE: u32 = 16;

/// Reads as [`Disk::read`] does, with zeroes for what the disk has lost; answers where in the buffer they are. Other
/// errors, which say nothing about the disk, are errors.
pub fn read_around<D: Disk>(
    disk: &mut D,
    number: u32,
    from: u64,
    length: usize,
    into: &mut Vec<u8>,
) -> io::Result<Vec<Range<usize>>> {
    match disk.read(number, from, length, into) {
        Err(error) if is_of_medium(&error) => {}
        other => return other.map(|()| Vec::new()),
    }
    into.clear();
    let (mut unread, mut part) = (Vec::new(), Vec::new());
    let (mut at, end, mut step, mut failed) = (from, from + length as u64, WINDOW, 0);
    while at < end {
        let until = end.min((at / step + 1) * step);
        let wanted = (until - at) as usize;
        match disk.read(number, at, wanted, &mut part) {
            Ok(()) => {
                into.extend_from_slice(&part);
                if part.len() < wanted {
                    break;
                }
                at = until;
            }
            Err(error) if !is_of_medium(&error) => return Err(error),
            Err(_) if step == WINDOW => {
                step = BLOCK;
                continue;
            }
            Err(_) => {
                failed += 1;
                let until = if failed < PATIENCE { until } else { end.min((at / WINDOW + 1) * WINDOW) };
                let zeroes = into.len()..into.len() + (until - at) as usize;
                into.resize(zeroes.end, 0);
                join(&mut unread, zeroes);
                at = until;
            }
        }
        if at.is_multiple_of(WINDOW) {
            (step, failed) = (WINDOW, 0);
        }
    }
    Ok(unread)
}

fn join(places: &mut Vec<Range<usize>>, place: Range<usize>) {
    match places.last_mut().filter(|last| last.end == place.start) {
        Some(last) => last.end = place.end,
        None => places.push(place),
    }
}

/// Whether an error says that what was written is not there any more: of the device, or of a file system that has found
/// out by itself.
fn is_of_medium(error: &io::Error) -> bool {
    const OF_MEDIUM: [Errno; 3] = [Errno::IO, Errno::BADMSG, Errno::ILSEQ];
    Errno::from_io_error(error).is_some_and(|error| OF_MEDIUM.contains(&error))
}
