//! Several builds at once, as many as two cores bear.

use std::{sync::Mutex, thread};

/// Does all of them, so many at once.
pub fn each<T: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    at_once: usize,
    work: impl Fn(T) + Sync,
) {
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().expect("no panic while it is held").next();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item);
                }
            });
        }
    });
}
