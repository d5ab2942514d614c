//! In which order to try the endpoints of etcd.

/// The endpoints by their index: the one that answered last comes first, the one that failed
/// last comes last.
///
/// A member that hangs is tried first once, and then only after all the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOrder(Vec<usize>);

impl EndpointOrder {
    /// Creates the order of `count` endpoints: from `first` on, and then from the beginning.
    #[must_use]
    pub fn new(count: usize, first: usize) -> Self {
        let mut order: Vec<usize> = (0..count).collect();
        order.rotate_left(first.min(count));
        Self(order)
    }

    /// Returns the endpoints in the order in which to try them.
    #[must_use]
    pub fn all(&self) -> &[usize] {
        &self.0
    }

    /// Returns the endpoint to try first; `None` when there is none at all.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.0.first().copied()
    }

    /// This endpoint answered.
    pub fn succeeded(&mut self, endpoint: usize) {
        if let Some(pos) = self.position(endpoint) {
            self.0[..=pos].rotate_right(1);
        }
    }

    /// This endpoint failed, did not answer in time, or was slower than another.
    pub fn failed(&mut self, endpoint: usize) {
        if let Some(pos) = self.position(endpoint) {
            self.0[pos..].rotate_left(1);
        }
    }

    fn position(&self, endpoint: usize) -> Option<usize> {
        self.0.iter().position(|other| *other == endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_answer_is_first_and_the_last_to_fail_is_last() {
        let mut order = EndpointOrder::new(3, 1);
        assert_eq!(order.all(), [1, 2, 0]);
        order.failed(1);
        assert_eq!(order.all(), [2, 0, 1]);
        order.succeeded(0);
        assert_eq!(order.all(), [0, 2, 1]);
        order.failed(0);
        assert_eq!(order.all(), [2, 1, 0], "1 failed earlier");
        order.succeeded(1);
        order.succeeded(7);
        order.failed(7);
        assert_eq!(order.all(), [1, 2, 0]);
        assert_eq!(EndpointOrder::new(0, 0).first(), None);
    }
}
