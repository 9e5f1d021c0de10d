//! EC2's own API, with the role of the instance: a second line where neither worker-manager nor the host ends a machine,
//! and a source of tags. Only with the cargo feature `ec2`; what the role must allow is in docs/aws.md.
//!
//! Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeTags.html>.

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{BehaviorVersion, Config, Region, SharedCredentialsProvider};
use aws_sdk_ec2::error::DisplayErrorContext;
use aws_sdk_ec2::types::Filter;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider as Tls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use serde_json::{Map, Value};
use std::time::Duration;

/// How long one call may take, its retries included.
const PATIENCE: Duration = Duration::from_secs(20);

/// The EC2 API of a region.
pub struct Ec2(Client);

impl Ec2 {
    /// That of a region, with the credentials of the instance's role. Nothing is asked yet.
    pub fn of(region: &str) -> Self {
        let http = Builder::new().tls_provider(Tls::Rustls(CryptoMode::Ring)).build_https();
        let imds = ProviderConfig::without_region().with_http_client(http.clone());
        let role = ImdsCredentialsProvider::builder().configure(&imds).build();
        let config = Self::config(region).http_client(http).credentials_provider(SharedCredentialsProvider::new(role));
        Self(Client::from_conf(config.build()))
    }

    fn config(region: &str) -> aws_sdk_ec2::config::Builder {
        Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .timeout_config(TimeoutConfig::builder().operation_timeout(PATIENCE).build())
    }

    /// Terminates an instance.
    ///
    /// # Errors
    /// What the API says.
    pub async fn terminate(&self, instance_id: &str) -> Result<(), String> {
        let asked = self.0.terminate_instances().instance_ids(instance_id).send().await;
        asked.map(|_| ()).map_err(|error| DisplayErrorContext(error).to_string())
    }

    /// An instance's tags.
    ///
    /// # Errors
    /// What the API says.
    pub async fn tags(&self, instance_id: &str) -> Result<Map<String, Value>, String> {
        let this = Filter::builder().name("resource-id").values(instance_id).build();
        let asked = self.0.describe_tags().filters(this).send().await;
        let answer = asked.map_err(|error| DisplayErrorContext(error).to_string())?;
        let tag = |tag: &aws_sdk_ec2::types::TagDescription| {
            Some((tag.key()?.to_owned(), Value::from(tag.value().unwrap_or_default())))
        };
        Ok(answer.tags().iter().filter_map(tag).collect())
    }
}

#[cfg(all(test, feature = "ec2-tests"))]
mod tests {
    use super::*;
    use aws_credential_types::Credentials;
    use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
    use aws_smithy_http_client::test_util::{ReplayEvent, StaticReplayClient};

    const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

    fn answering(status: u16, body: &str) -> (Ec2, StaticReplayClient) {
        let request = HttpRequest::get("https://ec2.us-west-2.amazonaws.com/").unwrap();
        let response = HttpResponse::new(status.try_into().unwrap(), body.into());
        let http = StaticReplayClient::new(vec![ReplayEvent::new(request, response)]);
        let credentials = Credentials::new("id", "canary-key", None, None, "test");
        let config = Ec2::config("us-west-2").http_client(http.clone()).credentials_provider(credentials);
        (Ec2(Client::from_conf(config.build())), http)
    }

    fn asked(http: &StaticReplayClient) -> String {
        let requests: Vec<_> = http.actual_requests().collect();
        String::from_utf8_lossy(requests[0].body().bytes().unwrap()).into_owned()
    }

    #[tokio::test]
    async fn an_instance_is_terminated_by_its_id() {
        let body = format!(
            "<TerminateInstancesResponse xmlns=\"{NAMESPACE}\"><requestId>r</requestId><instancesSet/></TerminateInstancesResponse>"
        );
        let (ec2, http) = answering(200, &body);
        assert_eq!(ec2.terminate("i-1").await, Ok(()));
        let asked = asked(&http);
        assert!(asked.contains("Action=TerminateInstances") && asked.contains("InstanceId.1=i-1"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_says_what_is_missing_and_no_secret() {
        let body = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You may not</Message></Error></Errors><RequestID>r</RequestID></Response>";
        let (ec2, _) = answering(403, body);
        let refusal = ec2.terminate("i-1").await.unwrap_err();
        assert!(refusal.contains("UnauthorizedOperation") && !refusal.contains("canary"), "{refusal}");
    }

    #[tokio::test]
    async fn tags_are_read() {
        let item = "<item><resourceId>i-1</resourceId><resourceType>instance</resourceType><key>Owner</key><value>ci</value></item>";
        let body = format!(
            "<DescribeTagsResponse xmlns=\"{NAMESPACE}\"><requestId>r</requestId><tagSet>{item}</tagSet></DescribeTagsResponse>"
        );
        let (ec2, http) = answering(200, &body);
        assert_eq!(ec2.tags("i-1").await.unwrap()["Owner"], "ci");
        let asked = asked(&http);
        assert!(asked.contains("Action=DescribeTags") && asked.contains("resource-id"), "{asked}");
    }
}
