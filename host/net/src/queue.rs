use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pushed {
    /// It waits.
    Queued,
    /// It waits, and so many older ones were dropped for it.
    Displaced(u64),
    /// No room.
    Refused,
    /// The connection is going away.
    Closed,
}

/// Frames that wait for one peer in one class; pushing never waits.
#[derive(Debug)]
pub(crate) struct SendQueue {
    frames_max: usize,
    bytes_max: usize,
    drop_oldest: bool,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
}

impl SendQueue {
    pub(crate) fn new(frames_max: usize, bytes_max: usize, drop_oldest: bool) -> Self {
        Self { frames_max, bytes_max, drop_oldest, inner: Mutex::default(), changed: Notify::new() }
    }

    /// `frame` must not be longer than the whole queue may be.
    pub(crate) fn push(&self, frame: Bytes) -> Pushed {
        let mut inner = self.lock();
        if inner.closed {
            return Pushed::Closed;
        }
        let mut displaced = 0;
        while inner.frames.len() >= self.frames_max || inner.bytes + frame.len() > self.bytes_max {
            if !self.drop_oldest {
                return Pushed::Refused;
            }
            let Some(oldest) = inner.frames.pop_front() else { return Pushed::Refused };
            inner.bytes -= oldest.len();
            displaced += 1;
        }
        inner.bytes += frame.len();
        inner.frames.push_back(frame);
        drop(inner);
        self.changed.notify_one();
        if displaced == 0 { Pushed::Queued } else { Pushed::Displaced(displaced) }
    }

    /// Waits for frames and moves some into `out`: one, or more as long as they have fewer
    /// than `bytes_max` together. `false` when the queue is closed and empty. For one
    /// caller at a time.
    pub(crate) async fn pop(&self, out: &mut Vec<Bytes>, bytes_max: usize) -> bool {
        loop {
            {
                let mut inner = self.lock();
                let mut bytes = 0;
                while bytes < bytes_max
                    && let Some(frame) = inner.frames.pop_front()
                {
                    inner.bytes -= frame.len();
                    bytes += frame.len();
                    out.push(frame);
                }
                if !out.is_empty() {
                    return true;
                }
                if inner.closed {
                    return false;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Takes no more frames; those inside can still be popped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: u8) -> Bytes {
        Bytes::from(vec![n; 10])
    }

    async fn drain(queue: &SendQueue) -> Vec<u8> {
        queue.close();
        let mut out = Vec::new();
        while queue.pop(&mut out, usize::MAX).await && out.len() < 100 {
            if queue.lock().frames.is_empty() {
                break;
            }
        }
        out.iter().map(|f| f[0]).collect()
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_oldest_where_it_may() {
        let queue = SendQueue::new(10, 30, true);
        assert_eq!((0..3).map(|n| queue.push(frame(n))).collect::<Vec<_>>(), [Pushed::Queued; 3]);
        assert_eq!(queue.push(frame(3)), Pushed::Displaced(1));
        assert_eq!(drain(&queue).await, [1, 2, 3]);
        assert_eq!(queue.push(frame(4)), Pushed::Closed);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_the_newest_where_it_may_not() {
        let queue = SendQueue::new(2, 1000, false);
        assert_eq!(queue.push(frame(0)), Pushed::Queued);
        assert_eq!(queue.push(frame(1)), Pushed::Queued);
        assert_eq!(queue.push(frame(2)), Pushed::Refused);
        assert_eq!(drain(&queue).await, [0, 1]);
    }
}
