//! Clients that work beside each other.

use crate::Result;

/// Runs `work` in so many threads at once, each with its number; what each of them gives, or an error of one.
pub(crate) fn together<T: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let work = |number| work(number).map_err(|error| error.to_string());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let work = &work;
                scope.spawn(move || work(number))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| Ok(thread.join().map_err(|_| "a client panicked")??))
            .collect()
    })
}
