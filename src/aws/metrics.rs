//! CloudWatch: sending metrics.

use aws_sdk_cloudwatch::config::Builder;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};

use super::{Aws, Failure, call};
use crate::outputs::cloudwatch::Minute;

pub const PUT: &str = "cloudwatch:PutMetricData";

/// A request shorter than this is not worth compressing. The SDK's own limit is 10 KiB, which a minute never reaches.
const COMPRESSED_FROM: u32 = 512;

impl Aws {
    /// Sends all of `minutes` in one call, under the dimensions that the whole group shares.
    ///
    /// # Errors
    /// When CloudWatch did not say that it took them, within 10 s. It may have: then they count twice if they are sent
    /// again, which minimum and maximum do not show.
    pub async fn put_metrics<'a>(
        &self,
        region: &str,
        namespace: &str,
        dimensions: &[(&str, &str)],
        minutes: impl Iterator<Item = &'a Minute>,
    ) -> Result<(), Failure> {
        let client = self.clients(region).cloudwatch;
        let dimensions: Vec<_> =
            dimensions.iter().map(|(name, value)| Dimension::builder().name(*name).value(*value).build()).collect();
        let mut request = client.put_metric_data().namespace(namespace);
        for minute in minutes {
            for sample in &minute.samples {
                let unit = if sample.is_seconds { StandardUnit::Seconds } else { StandardUnit::Count };
                let datum = MetricDatum::builder()
                    .metric_name(sample.name)
                    .set_dimensions(Some(dimensions.clone()))
                    .timestamp(DateTime::from_secs(minute.at.as_second()))
                    .value(sample.value)
                    .unit(unit);
                request = request.metric_data(datum.build());
            }
        }
        let compressed = Builder::new().request_min_compression_size_bytes(COMPRESSED_FROM);
        call(PUT, request.customize().config_override(compressed).send()).await.map(drop)
    }
}
