// must not compile: no matching constructor for initialization of 'nova::http::Client'
#include "nova/http/client.h"

void Use(nova::resilience::HttpDependency& admin_ports) {
#ifdef WRONG
  nova::http::Client client{nova::http::ClientConfig()};
#else
  nova::http::Client client(admin_ports);
#endif
}
